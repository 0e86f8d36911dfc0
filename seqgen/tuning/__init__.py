"""Settings found by a study of trials: what is searched, who runs the trials, what they share, what ends them early."""
