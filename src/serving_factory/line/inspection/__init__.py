"""Reading ELF files, disassembling them, and judging what was found."""
