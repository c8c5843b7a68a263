"""The paper's questions, asked again by one protocol (docs/does-it-pay.md)."""
