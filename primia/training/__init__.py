"""One site's local work: learner, schedules, batches, evaluation."""
