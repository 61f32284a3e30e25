from stages.transformer.training.cluster import passed_on


def test_settings_of_the_network_and_of_cuda_reach_workers_but_not_the_choice_of_a_gpu():
    kept = {"NCCL_P2P_DISABLE": "1", "TORCH_NCCL_BLOCKING_WAIT": "1", "CUDA_LAUNCH_BLOCKING": "1",
            "PYTORCH_ALLOC_CONF": "expandable_segments:True", "HF_TOKEN": "x"}  # fmt: skip
    assert passed_on(kept | {"CUDA_VISIBLE_DEVICES": "0", "HOME": "/root"}) == kept
