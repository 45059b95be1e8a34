"""Whether this machine is fit."""
