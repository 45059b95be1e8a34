"""Everything needed to build one variant, as a value."""
