"""Pages and pictures about runs, searches and single images."""
