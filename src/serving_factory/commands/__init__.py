"""What the tasks do. The top floor: joins the rooms below, and prints. A task imports the one that it needs."""
