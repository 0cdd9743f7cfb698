"""Many runs of nodekd, and the files they leave behind."""
