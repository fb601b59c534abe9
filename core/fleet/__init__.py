"""The replicas of a job: engines in processes of their own that look like one."""
