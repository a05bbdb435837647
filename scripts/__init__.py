"""Scripts that set up what the checks and the tests need."""
