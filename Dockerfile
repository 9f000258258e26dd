# editspec with its studio and language models: docker build -t editspec .
#
# In the folder of your specs:
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" editspec build spec.yaml -o out
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" -p 8642:8642 editspec \
#     studio spec.yaml --host 0.0.0.0 --port 8642
FROM python:3.12-slim

# What the torch that is pinned is found by: a build without CUDA is a tenth as large, where pip is told of one.
ARG PIP_EXTRA_INDEX_URL
COPY . /source
RUN pip install --no-cache-dir -c /source/constraints.txt "/source[studio,text]" && rm -r /source

# What was solved is kept by content in /cache: mount a volume there to keep it from run to run. With --user it is
# whoever owns the folder of the specs that writes.
RUN useradd --uid 1000 --create-home editspec && mkdir --mode 1777 /cache /work
USER 1000:1000
ENV EDITSPEC_CACHE=/cache
WORKDIR /work
ENTRYPOINT ["editspec"]
