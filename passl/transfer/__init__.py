"""From pre-trained weights to other tasks and libraries: export and import, frozen features, fine-tuning."""
