"""Networks side by side: scores, paired differences and costs of runs that were trained and scored alike."""
