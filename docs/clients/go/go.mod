module example/tocsin-client

go 1.22
