"""What this factory builds: the matrix file's model, its rules, and its expansion to variants."""
