"""What an update minimises: the losses, and the options that change them."""
