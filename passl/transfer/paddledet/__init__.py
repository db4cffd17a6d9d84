"""Detection and instance segmentation with PaddleDetection: its trainer and evaluator, our weights and protocols.

Nothing here imports PaddleDetection before `shim.import_ppdet` is called.
"""
