"""Storage: what outlives a request or the process, written so that a full disk or a power cut leaves nothing half done."""
