"""Model servers: a process per device that loads the models and answers the workers' requests in batches."""
