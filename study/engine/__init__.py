"""How jobs are run: by Ray Tune, or one after another in this process."""
