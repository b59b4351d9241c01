"""What finds the best of many vectors, exactly or nearly, and what that loses."""
