"""Whether this machine can build what is planned: facts are probed, and pure judges say what they mean."""
