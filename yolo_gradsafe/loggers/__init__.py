"""What is sent to the loggers beside the trainer: TensorBoard, W&B, MLflow, Ray Tune, Ultralytics' Platform."""
