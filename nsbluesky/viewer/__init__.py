"""Qt windows: the live window and the CXI viewer."""
