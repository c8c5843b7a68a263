"""Train, fine-tune and compare networks."""
