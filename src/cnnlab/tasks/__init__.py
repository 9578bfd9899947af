"""Tasks: what a network learns. One folder per task; the rest of cnnlab uses each as a `Task`."""
