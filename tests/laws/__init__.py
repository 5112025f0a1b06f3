"""Laws: what is true for every score, unit, pool, budget, schedule and optimizer, over generated inputs."""
