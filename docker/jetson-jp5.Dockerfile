# A board in a container: what irepdeploy needs on a Jetson with JetPack 5, without installing more on the board.
# irepdeploy itself stays at the desk and reaches the container over ssh.
#
# BASE is an image of NVIDIA's with TensorRT and its Python bindings for the board's L4T (r35: TensorRT 8.5, Python 3.8), such as l4t-tensorrt:r8.5.2-runtime
# in NVIDIA's catalogue NGC. On the board:
#
#     docker build -f docker/jetson-jp5.Dockerfile --build-arg BASE=... -t irepdeploy-board .
#     docker run --rm --runtime nvidia -p 2222:22 -v ~/.ssh/authorized_keys:/keys:ro irepdeploy-board
#
# At the desk, where ~/.ssh/config says "Host boxed", "HostName BOARD", "Port 2222", "User user":
#
#     irepdeploy jetson check boxed
#     irepdeploy jetson bench boxed model.onnx --clocks as-is
#
# Power modes, clocks and power sensors belong to the board itself: --mode, --clocks max and --power do not work here.
# Linted, but neither built nor run: no board was at hand.
ARG BASE
# hadolint ignore=DL3006
FROM ${BASE}
# The caller chooses the base, so versions of its packages cannot be pinned here.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends openssh-server python3 python3-numpy \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --groups video --shell /bin/bash user \
    && mkdir -p /run/sshd
EXPOSE 22
# sshd starts as root, since it opens the sessions of other users; root itself and passwords are refused.
# hadolint ignore=DL3002
USER 0
# A session over ssh does not see the variables of the image by itself.
CMD ["/bin/sh", "-c", "install -d -m 700 -o user ~user/.ssh && install -m 600 -o user /keys ~user/.ssh/authorized_keys && exec /usr/sbin/sshd -D -e -o PasswordAuthentication=no -o PermitRootLogin=no -o \"SetEnv=PATH=$PATH LD_LIBRARY_PATH=$LD_LIBRARY_PATH\""]
