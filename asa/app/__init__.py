"""App: what people use; nothing else imports it."""

ASSETS = "outputs/asa_assets"  # where an adapter is unless another place is named
