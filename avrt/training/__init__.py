"""The LightningModules, the DeepSpeed strategy and the LightningCLI call."""
