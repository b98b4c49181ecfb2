# Three zones, each with its own way out, at least two copies of what is acknowledged, three of each service, TLS.
# The domain's defaults are examples: they apply nowhere but in the tests. Set yours.

terraform {
  required_version = ">= 1.10"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }

  # With a state that is to be kept, that others share, and that has secrets in it:
  #
  # backend "s3" {
  #   bucket       = "example-terraform-state"
  #   key          = "mayfly/production.tfstate"
  #   region       = "eu-central-1"
  #   encrypt      = true
  #   kms_key_id   = "alias/terraform-state"
  #   use_lockfile = true
  # }
}

variable "region" {
  description = "The AWS region."
  type        = string
  default     = "eu-central-1"
}

variable "domain_name" {
  description = "The gateway's host name."
  type        = string
  default     = "mayfly.example.com"
}

variable "zone_id" {
  description = "The Route 53 zone of that name."
  type        = string
  default     = "Z0123456789EXAMPLE00"
}

variable "image_tag" {
  description = "The version of Mayfly that runs."
  type        = string
  default     = "0.1.0"
}

variable "functions_tag" {
  description = "The version of your functions that the deployer deploys."
  type        = string
  default     = "functions-1"
}

variable "alarm_email" {
  description = "Who is told of alarms."
  type        = string
  default     = null
}

provider "aws" {
  region = var.region

  default_tags {
    tags = { Environment = "production" }
  }
}

module "mayfly" {
  source = "../.."

  name        = "mayfly"
  image_tag   = var.image_tag
  alarm_email = var.alarm_email

  functions_tag        = var.functions_tag
  functions_on_fargate = true

  domain_name = var.domain_name
  zone_id     = var.zone_id

  zones                = 3
  broker_instance_type = "kafka.m7g.large"
  broker_volume_gib    = 250
  partitions           = 24

  cache_node_type = "cache.m7g.large"
  cache_replicas  = 1

  gateway    = { cpu = 1024, memory = 2048, min = 3, max = 12 }
  dispatcher = { instance_type = "c7i.2xlarge", disk_gib = 100, slots = 32, min = 3, max = 12, waiting_tasks = 500 }
}

output "mayfly" {
  description = "All that the module says."
  value       = module.mayfly
}
