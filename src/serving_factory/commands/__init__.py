"""What the tasks do: one module per verb or family, each printing its own result. A task imports the one it needs."""
