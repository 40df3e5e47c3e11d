"""The four stages of the pipeline, and the postmaster who looks after them."""
