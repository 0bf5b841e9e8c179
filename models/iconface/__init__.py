"""`iconface`: a flow restorer that takes references, after IConFace (arXiv 2605.02814) and RefID (arXiv 2505.21905)."""
