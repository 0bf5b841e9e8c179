"""Reports on a run: counts, progress, the page, the log of references, metadata and manifests of the result."""
