"""The hospital's process: decides, computes on its own data, protects the result, sends it out."""
