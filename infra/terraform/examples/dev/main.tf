# The smallest that is whole: two zones, one NAT gateway, small brokers, one of each service, nothing protected. The
# gateway is reached from inside the VPC only, by HTTP: README.md says how, by a tunnel.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}

variable "region" {
  description = "The AWS region."
  type        = string
  default     = "eu-central-1"
}

provider "aws" {
  region = var.region
}

module "mayfly" {
  source = "../.."

  name                = "mayfly-dev"
  deletion_protection = false

  zones               = 2
  single_nat_gateway  = true
  interface_endpoints = false

  broker_instance_type  = "kafka.t3.small"
  broker_volume_gib     = 20
  broker_volume_max_gib = 100
  partitions            = 8

  cache_node_type = "cache.t4g.small"
  cache_replicas  = 0

  gateway    = { cpu = 512, memory = 1024, min = 1, max = 2 }
  dispatcher = { instance_type = "t3.large", disk_gib = 50, slots = 8, min = 1, max = 2, waiting_tasks = 200 }

  log_retention_days = 14
}

output "mayfly" {
  description = "All that the module says."
  value       = module.mayfly
}
