"""What is done with the project and is no part of it: each script runs a package beside it."""
