"""The paper's questions, answered by one common protocol (docs/does-it-pay.md)."""
