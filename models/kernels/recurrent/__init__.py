"""The recurrent layer of the CPU: steps of GRU and LSTM over levels of rows."""
