"""The processes of a job: how they meet, exchange tensors, agree, and notice that one is lost."""
