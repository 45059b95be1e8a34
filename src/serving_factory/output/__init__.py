"""What users see: board, plain lines, JSON, tables."""
