"""Structure: units really removed, so that the network is an ordinary smaller one."""
