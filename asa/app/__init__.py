"""App: what people use; nothing else imports it."""
