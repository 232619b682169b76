"""What the steps of the main job share: options, chosen images, the loaded model, the files computed so far."""
