"""The packaged configurations; `avrt --config NAME` finds them here by bare name."""
