"""The subcommands that are not LightningCLI's own."""
