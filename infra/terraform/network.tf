# Three tiers in each zone: public (the load balancer, NAT), private (gateways, dispatchers) and data (Kafka, the
# cache), which has no way to the internet at all.

data "aws_availability_zones" "available" {
  state = "available"
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.region

  zones = slice(data.aws_availability_zones.available.names, 0, var.zones)

  # Zone => position, so that a zone that goes does not renumber the others' addresses.
  zone_numbers = { for number, zone in local.zones : zone => number }
  nat_zones    = var.single_nat_gateway ? [local.zones[0]] : local.zones
}

resource "aws_vpc" "this" {
  cidr_block           = var.vpc_cidr
  enable_dns_support   = true
  enable_dns_hostnames = true

  tags = merge(local.tags, { Name = var.name })
}

# What nobody chose a group for may talk to nobody.
resource "aws_default_security_group" "closed" {
  vpc_id = aws_vpc.this.id

  tags = merge(local.tags, { Name = "${var.name}-closed" })
}

resource "aws_subnet" "public" {
  for_each = local.zone_numbers

  vpc_id                  = aws_vpc.this.id
  availability_zone       = each.key
  cidr_block              = cidrsubnet(var.vpc_cidr, 4, each.value)
  map_public_ip_on_launch = false

  tags = merge(local.tags, { Name = "${var.name}-public-${each.key}" })
}

resource "aws_subnet" "private" {
  for_each = local.zone_numbers

  vpc_id                  = aws_vpc.this.id
  availability_zone       = each.key
  cidr_block              = cidrsubnet(var.vpc_cidr, 4, 4 + each.value)
  map_public_ip_on_launch = false

  tags = merge(local.tags, { Name = "${var.name}-private-${each.key}" })
}

resource "aws_subnet" "data" {
  for_each = local.zone_numbers

  vpc_id                  = aws_vpc.this.id
  availability_zone       = each.key
  cidr_block              = cidrsubnet(var.vpc_cidr, 4, 8 + each.value)
  map_public_ip_on_launch = false

  tags = merge(local.tags, { Name = "${var.name}-data-${each.key}" })
}

# --- ways out

resource "aws_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id

  tags = merge(local.tags, { Name = var.name })
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.this.id

  tags = merge(local.tags, { Name = "${var.name}-public" })
}

resource "aws_route" "public" {
  route_table_id         = aws_route_table.public.id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this.id
}

resource "aws_route_table_association" "public" {
  for_each = aws_subnet.public

  route_table_id = aws_route_table.public.id
  subnet_id      = each.value.id
}

resource "aws_eip" "nat" {
  for_each = toset(local.nat_zones)

  domain = "vpc"

  tags = merge(local.tags, { Name = "${var.name}-nat-${each.key}" })
}

resource "aws_nat_gateway" "this" {
  for_each = toset(local.nat_zones)

  allocation_id = aws_eip.nat[each.key].id
  subnet_id     = aws_subnet.public[each.key].id

  tags = merge(local.tags, { Name = "${var.name}-${each.key}" })

  depends_on = [aws_internet_gateway.this]
}

resource "aws_route_table" "private" {
  for_each = local.zone_numbers

  vpc_id = aws_vpc.this.id

  tags = merge(local.tags, { Name = "${var.name}-private-${each.key}" })
}

resource "aws_route" "private" {
  for_each = local.zone_numbers

  route_table_id         = aws_route_table.private[each.key].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.this[var.single_nat_gateway ? local.zones[0] : each.key].id
}

resource "aws_route_table_association" "private" {
  for_each = aws_subnet.private

  route_table_id = aws_route_table.private[each.key].id
  subnet_id      = each.value.id
}

resource "aws_route_table" "data" {
  vpc_id = aws_vpc.this.id

  tags = merge(local.tags, { Name = "${var.name}-data" })
}

resource "aws_route_table_association" "data" {
  for_each = aws_subnet.data

  route_table_id = aws_route_table.data.id
  subnet_id      = each.value.id
}

# --- AWS without the internet

# Results and payloads are most of the traffic, and this way they cost nothing.
resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.this.id
  service_name      = "com.amazonaws.${local.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [for table in aws_route_table.private : table.id]

  tags = merge(local.tags, { Name = "${var.name}-s3" })
}

resource "aws_vpc_endpoint" "interface" {
  for_each = var.interface_endpoints ? toset([
    "ecr.api", "ecr.dkr", "ecs", "ecs-agent", "ecs-telemetry", "kms", "logs", "secretsmanager", "ssmmessages",
  ]) : toset([])

  vpc_id              = aws_vpc.this.id
  service_name        = "com.amazonaws.${local.region}.${each.key}"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = [for subnet in aws_subnet.private : subnet.id]
  security_group_ids  = [aws_security_group.endpoints.id]

  tags = merge(local.tags, { Name = "${var.name}-${each.key}" })
}

# --- who may speak to whom

resource "aws_security_group" "balancer" {
  name        = "${var.name}-balancer"
  description = "The load balancer: takes what clients send"
  vpc_id      = aws_vpc.this.id

  tags = merge(local.tags, { Name = "${var.name}-balancer" })
}

resource "aws_security_group" "gateway" {
  name        = "${var.name}-gateway"
  description = "Gateways: taken from the load balancer alone"
  vpc_id      = aws_vpc.this.id

  tags = merge(local.tags, { Name = "${var.name}-gateway" })
}

resource "aws_security_group" "dispatcher" {
  name        = "${var.name}-dispatcher"
  description = "Dispatchers and their hosts: nobody connects to them"
  vpc_id      = aws_vpc.this.id

  tags = merge(local.tags, { Name = "${var.name}-dispatcher" })
}

resource "aws_security_group" "kafka" {
  name        = "${var.name}-kafka"
  description = "Kafka brokers"
  vpc_id      = aws_vpc.this.id

  tags = merge(local.tags, { Name = "${var.name}-kafka" })
}

resource "aws_security_group" "cache" {
  name        = "${var.name}-cache"
  description = "The cache"
  vpc_id      = aws_vpc.this.id

  tags = merge(local.tags, { Name = "${var.name}-cache" })
}

resource "aws_security_group" "endpoints" {
  name        = "${var.name}-endpoints"
  description = "AWS services, from inside"
  vpc_id      = aws_vpc.this.id

  tags = merge(local.tags, { Name = "${var.name}-endpoints" })
}

locals {
  ports = {
    gateway    = 8080
    dispatcher = 9464 # health and metrics, on loopback
    kafka      = 9098 # TLS with IAM
    cache      = 6379
  }

  # Each connection that there is, once: both ends get a rule.
  connections = merge({
    balancer-gateway = { from = aws_security_group.balancer.id, to = aws_security_group.gateway.id, port = local.ports.gateway }
    gateway-kafka    = { from = aws_security_group.gateway.id, to = aws_security_group.kafka.id, port = local.ports.kafka }
    gateway-cache    = { from = aws_security_group.gateway.id, to = aws_security_group.cache.id, port = local.ports.cache }
    dispatcher-kafka = { from = aws_security_group.dispatcher.id, to = aws_security_group.kafka.id, port = local.ports.kafka }
    dispatcher-cache = { from = aws_security_group.dispatcher.id, to = aws_security_group.cache.id, port = local.ports.cache }
    gateway-aws      = { from = aws_security_group.gateway.id, to = aws_security_group.endpoints.id, port = 443 }
    dispatcher-aws   = { from = aws_security_group.dispatcher.id, to = aws_security_group.endpoints.id, port = 443 }
    }, { for name, one in {
      # A tunnel ends on a host, and goes on from there.
      dispatcher-balancer = { from = aws_security_group.dispatcher.id, to = aws_security_group.balancer.id, port = 80 }
    } : name => one if !local.has_tls }, var.functions_on_fargate ? {
    functions-aws = { from = aws_security_group.functions[0].id, to = aws_security_group.endpoints.id, port = 443 }
  } : {})

  # Beyond the VPC: AWS, an identity provider's keys, callbacks, and what functions with egress reach.
  outward = merge(
    { gateway-443 = { group = aws_security_group.gateway.id, port = 443 } },
    { for port in var.egress_ports : "dispatcher-${port}" => { group = aws_security_group.dispatcher.id, port = port } },
    { for port in var.egress_ports : "functions-${port}" => { group = aws_security_group.functions[0].id, port = port } if var.functions_on_fargate },
  )
}

resource "aws_vpc_security_group_egress_rule" "connection" {
  for_each = local.connections

  description                  = each.key
  security_group_id            = each.value.from
  referenced_security_group_id = each.value.to
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port

  tags = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "connection" {
  for_each = local.connections

  description                  = each.key
  security_group_id            = each.value.to
  referenced_security_group_id = each.value.from
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port

  tags = local.tags
}

resource "aws_vpc_security_group_egress_rule" "outward" {
  for_each = local.outward

  description       = "${each.key} to public addresses"
  security_group_id = each.value.group
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = each.value.port
  to_port           = each.value.port

  tags = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "clients" {
  for_each = toset(local.ingress_cidrs)

  description       = "Clients"
  security_group_id = aws_security_group.balancer.id
  cidr_ipv4         = each.key
  ip_protocol       = "tcp"
  from_port         = local.listener_port
  to_port           = local.listener_port

  tags = local.tags
}

# --- what was said to whom

resource "aws_flow_log" "this" {
  vpc_id                   = aws_vpc.this.id
  traffic_type             = "REJECT"
  log_destination_type     = "cloud-watch-logs"
  log_destination          = aws_cloudwatch_log_group.this["flows"].arn
  iam_role_arn             = aws_iam_role.flows.arn
  max_aggregation_interval = 600

  tags = merge(local.tags, { Name = var.name })
}
