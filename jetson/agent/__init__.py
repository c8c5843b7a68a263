"""The agent that runs on the board: Python 3.8 with the standard library, numpy and JetPack's own TensorRT.

`irepdeploy.jetson.agent_archive` packs it into one file, together with `irepdeploy.board`.
"""
