"""Scripts of the Makefile: they install what the checks and the tests need, list dependencies, and audit them."""
