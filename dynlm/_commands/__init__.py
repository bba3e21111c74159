"""What the commands of `dynlm` do that are about stores: their options, and what they print."""
