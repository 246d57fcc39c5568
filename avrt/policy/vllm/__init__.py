"""Rollouts and answers by vLLM: the trainer's side of `avrt.rollout.vllm_process`."""
