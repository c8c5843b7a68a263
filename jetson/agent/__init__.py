"""What runs on the board: Python 3.8, standard library, numpy, JetPack's own TensorRT, and nothing else of irepdeploy.

`irepdeploy.jetson.agent_archive` packs it, with the runners of `irepdeploy.runtime`, into one file.
"""
