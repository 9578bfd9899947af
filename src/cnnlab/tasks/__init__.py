"""What is learned: one folder a task, chosen by the data or the model, and known to the rest as a `Task`."""
