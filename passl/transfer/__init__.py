"""From pre-trained weights to other tasks and other libraries: export and import, evaluation of frozen features, fine-tuning."""
